"""The report as one HTML page: page.html.jinja, page.css and page.js, filled by ``render``."""

from gptscratch.report.page.render import is_report, plotly_script, render_page

__all__ = ["is_report", "plotly_script", "render_page"]
