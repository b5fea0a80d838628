"""fairseq tasks. Importing this package also registers the criteria, optimisers and schedules."""

from .. import criterions, optim  # noqa: F401
from ..fairseq_support import quiet_start_up

quiet_start_up()
