from modelkeep.loader.v1 import capacity_pb2 as _capacity_pb2
from modelkeep.loader.v1 import estimate_pb2 as _estimate_pb2
from modelkeep.loader.v1 import hold_pb2 as _hold_pb2
from modelkeep.loader.v1 import leases_pb2 as _leases_pb2
from modelkeep.loader.v1 import load_pb2 as _load_pb2
from modelkeep.loader.v1 import pins_pb2 as _pins_pb2
from modelkeep.loader.v1 import residents_pb2 as _residents_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
