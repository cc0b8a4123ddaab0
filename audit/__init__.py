"""Afterimage: which training images does a diffusion checkpoint give away, to whom, and how sure is that?"""

__version__ = "0.1.0"
