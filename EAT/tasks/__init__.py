"""fairseq tasks. Importing this package also registers the criteria, optimisers and schedules."""

from .. import criterions, optim  # noqa: F401
from ..fairseq_support import explain_unknown_keys, quiet_start_up
from ..resilience.training import install

quiet_start_up()
explain_unknown_keys()
install()
