"""Tables: explicit schemas, whole files, a ledger of what is done. pyarrow and fsspec, no Ray, no torch."""
