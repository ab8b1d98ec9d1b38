"""The prefix artifact: everything needed to use a corrective prefix and to check it."""

from __future__ import annotations

from safethink.prefix.artifact import Identity as Identity
from safethink.prefix.artifact import Metric as Metric
from safethink.prefix.artifact import Prefix as Prefix
from safethink.prefix.artifact import PrefixArtifact as PrefixArtifact
from safethink.prefix.artifact import RowsFile as RowsFile
from safethink.prefix.store import CARD_FILE as CARD_FILE
from safethink.prefix.store import JSON_FILE as JSON_FILE
from safethink.prefix.store import LITERAL as LITERAL
from safethink.prefix.store import LOG_FILE as LOG_FILE
from safethink.prefix.store import ROWS_FILE as ROWS_FILE
from safethink.prefix.store import PrefixLike as PrefixLike
from safethink.prefix.store import bind as bind
from safethink.prefix.store import built_in as built_in
from safethink.prefix.store import list_built_in as list_built_in
from safethink.prefix.store import load as load
from safethink.prefix.store import round_trips as round_trips
from safethink.prefix.store import save as save
