"""The report as one HTML page: page.html.jinja, page.css and page.js, filled by ``render``."""

from gptscratch.report.page.render import plotly_script, render_page

__all__ = ["plotly_script", "render_page"]
