"""Words: timelines as files: the studio's JSON, plain text, LongLive's JSON lines and Daydream Scope's JSON."""

from __future__ import annotations

from studio.formats.files import (
    KINDS as KINDS,
)
from studio.formats.files import (
    MAX_BYTES as MAX_BYTES,
)
from studio.formats.files import (
    Read as Read,
)
from studio.formats.files import (
    Written as Written,
)
from studio.formats.files import (
    dumps as dumps,
)
from studio.formats.files import (
    kind_of as kind_of,
)
from studio.formats.files import (
    load as load,
)
from studio.formats.files import (
    loads as loads,
)
from studio.formats.files import (
    read as read,
)
from studio.formats.files import (
    save as save,
)
from studio.formats.longlive import switch_indices as switch_indices
from studio.formats.native import (
    FORMAT as FORMAT,
)
from studio.formats.native import (
    VERSION as VERSION,
)
from studio.formats.native import (
    from_json as from_json,
)
from studio.formats.native import (
    to_json as to_json,
)
from studio.formats.schema import schema as schema
from studio.formats.text import from_text as from_text
from studio.formats.text import lost_in_text as lost_in_text
from studio.formats.text import to_text as to_text
