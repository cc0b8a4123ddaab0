"""The constant CSS of all pages. Colours: .streamlit/config.toml and audit/report/palette.py.

`light-dark()` works because Streamlit sets `color-scheme` on its root, so no page needs to know the theme.
"""

from audit.report.palette import VERDICTS

FRAME_CSS = """
[data-testid="stMainBlockContainer"] { max-width: 1400px; padding: 4rem 2rem 4rem; margin: 0 auto; }
[data-testid="stSidebarUserContent"] { padding-bottom: 1.5rem; }
[data-testid="stSidebarHeader"] { margin-bottom: .25rem; }
[class*="st-key-menu_"] { padding-bottom: .35rem; }
[class*="st-key-menu_"] [data-testid="stPageLink-NavLink"] { padding: .28rem .5rem; }
.st-key-menu_foot { border-top: 1px solid light-dark(#D5DAE1,#343D4A); padding-top: .6rem; }
h1, h2, h3, h4 { letter-spacing: -.005em; }
[data-testid="stHeading"] h1 { padding: 0 0 .2rem; }
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { opacity: .8; color: inherit; }
[data-testid="stBaseButton-primary"]:not(:disabled), [data-testid="stBaseButton-primary"]:not(:disabled) *,
[data-testid="stMultiSelect"] [data-baseweb="tag"], [data-testid="stMultiSelect"] [data-baseweb="tag"] * { color: light-dark(#FFFFFF,#11151B) !important; }
[data-testid="stMetricValue"], [data-testid="stMetricDelta"], [data-testid="stTable"], [data-testid="stText"],
  [data-testid="stMarkdownContainer"] { font-variant-numeric: tabular-nums; }
.js-plotly-plot .plotly text { fill: currentColor !important; }
"""

TEXT_CSS = """
[data-testid="stText"] { font-family: inherit; font-size: 1rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; }
[class*="st-key-name"] [data-testid="stText"] { font-size: 1.125rem; font-weight: 600; }
[class*="st-key-small"] [data-testid="stText"] { font-size: .875rem; opacity: .8; }
[class*="st-key-points"] [data-testid="stText"] { position: relative; padding-left: 1.1rem; }
[class*="st-key-points"] [data-testid="stText"]::before { content: ""; position: absolute; left: .2rem; top: .62em; width: .32em; height: .32em; border-radius: 50%;
  background: currentColor; opacity: .75; }
[class*="st-key-notice"] { background: light-dark(#FDF3E2,#362713); border-radius: .375rem; padding: .6rem .9rem; }
[class*="st-key-notice"] [data-testid="stText"], [class*="st-key-notice"] [data-testid="stIconMaterial"] { color: light-dark(#7E4A00,#F2C27E); }
[class*="st-key-pixels"] img { image-rendering: pixelated; }
"""

PRINT_CSS = """
@media print {
  [data-testid="stSidebar"], [data-testid="stHeader"], [data-testid="stToolbar"], [data-testid="stElementToolbar"], .modebar,
  [class*="st-key-noprint"] { display: none !important; }
  [data-testid="stMainBlockContainer"] { max-width: none; padding: 0; }
  [data-testid="stMain"], [data-testid="stAppViewContainer"] { position: static; overflow: visible; height: auto; }
  [class*="st-key-verdict_"], [data-testid="stMetric"], [data-testid="stPlotlyChart"] { break-inside: avoid; }
}
"""


def style():
    """The `<style>` element of every page: constant text, so `st.html` may take it."""
    bars = "".join(
        f'[class*="st-key-verdict_{level}"] {{ border-left: 6px {look.bar_style} light-dark({look.bar_light},{look.bar_dark}) !important; padding-left: 1.1rem; }}\n'
        for level, look in VERDICTS.items()
    )
    return f"<style>{FRAME_CSS}{TEXT_CSS}{bars}{PRINT_CSS}</style>"
