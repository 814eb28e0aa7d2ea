"""Results in PostgreSQL with PostGIS: tables with indexes, views by class scheme and run, and their QGIS styles.

Needs the extra `postgis`. What an address is (`address`) and how one is spoken to (`connecting`); the tables (`tables`), the
reference systems (`systems`), the views (`views`) and styles (`styles`) there; the tiles as PostgreSQL's binary rows
(`copying`), what is told of a run (`run`), and the two roads: `reading` and, a step later because it reads files too, `loading`.
"""
