"""HTML of the report's parts: every piece of text is escaped here, and the style is constant text."""

from html import escape

from audit.report.palette import VERDICTS

CONTENT_CSS = """
.card { border: 1px solid light-dark(#D5DAE1,#343D4A); border-radius: 6px; padding: .9rem 1.2rem 1rem; }
.card h2 { font-size: 1.25rem; margin: .2rem 0 .4rem; } .card .level { margin: 0; } .card p { margin: .3rem 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit,minmax(200px,1fr)); gap: 0 1.5rem; }
.columns h3 { font-size: 1rem; margin: .8rem 0 .3rem; } .columns ul { margin: 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; } .scroll table.wide { min-width: 42rem; } 
.scroll table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
.scroll th, .scroll td { border: 0; border-bottom: 1px solid light-dark(#D5DAE1,#343D4A); padding: .4rem .8rem .4rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
.scroll th { font-weight: 600; } .scroll + p { margin-top: .8rem; }
.pairs th { white-space: nowrap; width: 11rem; }
.two { columns: 2 280px; column-gap: 2rem; } .two ul { margin: 0; padding-left: 1.1rem; } .words { font-size: .9rem; } .words p { break-inside: avoid; margin: 0 0 .5rem; }
.legend span { display: inline-block; margin-right: 1.4rem; white-space: nowrap; } .legend i { display: inline-block; width: 24px; margin-right: .45rem;
  vertical-align: middle; } .legend small { opacity: .8; font-size: .9em; }
.note { opacity: .8; font-size: .9rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill,minmax(110px,1fr)); gap: .8rem; } .pictures figure { margin: 0; }
.pictures img { width: 84px; height: 84px; object-fit: contain; image-rendering: pixelated; } .pictures figcaption { font-size: .75rem; overflow-wrap: anywhere; }
"""


def content_css():
    """Style of the sections, with the verdict's bar; constant text."""
    return CONTENT_CSS + "".join(f".card.{level} {{ border-left: 6px {look.bar_style} light-dark({look.bar_light},{look.bar_dark}); }}\n" for level, look in VERDICTS.items())


def sentences(said):
    """A paragraph for each."""
    return "".join(f"<p>{escape(text)}</p>" for text in said)


def bullets(items):
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(str(item))}</li>' for item in items)}</ul>"


def pairs(rows):
    """Names and values as a table of two columns; all text is escaped."""
    return f"<div class='scroll'><table class='pairs'>{''.join(f'<tr><th scope=row>{escape(str(a))}</th><td>{escape(str(b))}</td></tr>' for a, b in rows)}</table></div>"


def definitions(rows):
    """Words with their meaning, in two columns."""
    return f"<div class='two words'>{''.join(f'<p><b>{escape(word)}</b><br>{escape(text)}</p>' for word, text in rows)}</div>"


def table(heads, rows, kind="plain"):
    """A table with a head. Args: kind: its class in CONTENT_CSS."""
    head = "".join(f"<th scope=col>{escape(str(text))}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table class='{kind}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
