"""The offline document: one HTML file that opens anywhere, prints, and asks the network for nothing.

Its content are `audit.report.sections`; its own policy allows no script but the two whose hashes it names.
"""

import base64
import hashlib
import json
from html import escape

from audit import format as fmt
from audit.report.markup import content_css
from audit.report.sections import sections

DOCUMENT_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, "Segoe UI", "Source Sans 3", "DejaVu Sans", sans-serif; color: light-dark(#1B2330,#E6EAF0); background: light-dark(#FFFFFF,#11151B);
  margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 1060px; }
header p { margin: 0; opacity: .8; font-size: .9rem; overflow-wrap: anywhere; } h1 { font-size: 1.75rem; margin: .2rem 0 1rem; } section { margin: 0 0 1.8rem; }
  section > h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit,minmax(340px,1fr)); gap: 1rem; } .charts figure { margin: 0; min-width: 0; }
  figcaption { font-size: .875rem; opacity: .8; }
.js-plotly-plot .plotly text { fill: currentColor !important; }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 11pt; } .card, .charts figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } .modebar { display: none !important; } }
"""


def render(run, thumbnails=False):
    """The whole document.

    Args: run: audit.report.run.Run; thumbnails: off by default, because the document would then itself show training images.
    Returns: str, one HTML file below 6 MB.
    """
    from plotly.offline import get_plotlyjs

    body, drawings = [], []
    for part in sections(run, thumbnails):
        title = f"<h2>{escape(part.title)}</h2>" if part.title else ""
        charts = []
        for caption, make in part.figures:
            name = f"chart{len(drawings)}"
            figure = make()
            drawings.append(_drawing(name, figure))
            charts.append(
                f'<figure><div id="{name}" class="chart" role="img" aria-label="{escape(figure.layout.meta["alt"])}"></div><figcaption>{escape(caption)}</figcaption></figure>'
            )
        rows = f'<div class="charts">{"".join(charts)}</div>' if charts else ""
        body.append(f'<section id="{part.key}">{title}{part.html}{rows}</section>')
    library, draw = get_plotlyjs(), DRAW + "".join(drawings)
    head = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_policy(library, draw)}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(run.report['run']['name'])} · Afterimage</title>"
        f"<style>{DOCUMENT_CSS}{content_css()}</style></head>"
    )
    made = f"{escape(run.report['run']['name'])} · {escape(fmt.moment(run.report['run']['created']))} · Afterimage {escape(str(run.report['versions']['afterimage']))}"
    return f"{head}<body><header><p>{made}</p><h1>Membership audit</h1></header><main>{''.join(body)}</main><script>{library}</script><script>{draw}</script></body></html>\n"


def _policy(*scripts):
    """No network; styles inline; scripts only with these hashes. Plotly sets style elements, so those must stay allowed."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


DRAW = """const draw=(id,f)=>Plotly.newPlot(id,f.data,
  {...f.layout,font:{...f.layout.font,size:12,family:getComputedStyle(document.body).fontFamily},margin:{...f.layout.margin,l:64,r:24}},
  {displaylogo:false,responsive:true,modeBarButtons:[["toImage"]],toImageButtonOptions:{format:"svg"}});
"""


def _drawing(name, figure):
    """One line of script. `<` is written as its escape, so that no text in a figure can end the script element."""
    plain = json.dumps(json.loads(figure.to_json()), separators=(",", ":"))  # ASCII only
    return f'draw("{name}",{plain.replace("<", chr(92) + "u003c")});\n'
