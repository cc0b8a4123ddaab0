"""Networks that formats need, with the parameter names of the code that trained them."""
