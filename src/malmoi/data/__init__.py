"""FILES -> TOKENS -> BATCHES: what a model learns from.

streams     paths -> text: finding files, unpacking them, checking that they are UTF-8
records     text -> records: JSON lines, tables, Parquet; templates
corpus      records -> documents
village     documents made, not read: the embedded world
shards      documents -> a token file on disk
tokenfile   opening and checking one; what is held out
packing     document lengths -> rows
mixture     several sources -> one order
batches     rows -> the rectangles of tokens that training reads
"""
