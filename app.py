"""The dashboard: streamlit run app.py"""

from pages.frame import main

main()
