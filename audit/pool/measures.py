"""What is measured against a sample pool: no network is asked, so these are no probes. One line a measure; importing this imports no torch.

A measure has `name`, `VERSION` (raise it whenever a number changes), `TABLES` {table: columns} and `measure`, as audit.pool.nearest.Nearest shows. Its tables
have the axis "feature".
"""

from audit.registry import Registry

MEASURES = Registry({"nearest": "audit.pool.nearest:Nearest"})
