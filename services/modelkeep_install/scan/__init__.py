"""Scans: folders are looked through for models, and what has no record gets one by an install of its own.

::

    walking   which files and folders are models, by their names        found   what a scan is and finds
    known     which of them have a record                               store   both, in SQLite
    orphans   records without files, and whether they may go
    looking   one scan under way                                        scanner all of them, over restarts
    wire      the RPCs
"""
