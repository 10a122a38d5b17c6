"""HTTP: decode, call the service, encode.

Every rule of the domain lives below; every error is translated in `problems`, once.
"""

from claudedo_worker.api.context import Context
from claudedo_worker.api.problems import STATUS
from claudedo_worker.api.routes import ROUTES, build

__all__ = ["ROUTES", "STATUS", "Context", "build"]
