"""An encyclopaedia to search: its documents, their Lucene index, and the process that searches it."""
