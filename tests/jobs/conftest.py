from tests.pipeline.tables.conftest import s3, s3_server, store

__all__ = ["s3", "s3_server", "store"]
