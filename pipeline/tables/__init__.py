"""Tables: explicit schemas, whole files, a ledger of what is done. No Ray, no torch."""
