"""Pages that people look at: a gallery of scored photos, and how two tables of scores agree. They need no server."""
