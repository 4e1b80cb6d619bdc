"""The HTML page of an output directory: tables in, one folder of files out that needs no server.

    facts     one snapshot of the tables, and the runs' records
    summary   what a person wants to know of them: totals, labels, sync, failures, throughput
    quality   null rates, drift of the scores, near-duplicates
    charts    Vega-Lite specs, each with its numbers as a table
    scripts   clips and timelines as scripts that a page from disk can load, paged
    previews  stills and excerpts beside the page
    render    all of it as files

Texts of the tables are untrusted: they leave here through jinja2's autoescape, or as JSON that cannot end a
script. Ray, torch and the command line never enter.
"""
