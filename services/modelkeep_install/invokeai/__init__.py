"""Importing an InvokeAI: its records are read where they are, and registered here with all that they say.

::

    root      where its database, models.yaml and models are
    read      its database, a page of records at a time, read only       legacy   its models.yaml
    cleaning  what may be kept of their values
    looking   whether a model's files are there, and which they are
    mapping   what a record is here; what has no place here is kept as extra fields
    comparing whether a record here says the same, and who changed it since
    course    all of them, in the order of an import                     wire     the call
"""
