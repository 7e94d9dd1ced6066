"""The status as files, for whoever reads them on the device: each is written whole, and only when it changed."""

from dataclasses import dataclass, field
from pathlib import Path

from margo_oci.device_status import DEVICE_LIMIT_BYTES, DeviceStatus, parse_device_status
from margo_oci.errors import FormatError
from margo_oci.status import manifest_bytes
from margo_oci.store import write_whole

DEVICE_FILE = "device.json"
CAPABILITIES_FILE = "capabilities.json"
DEPLOYMENTS = "deployments"
MODE = 0o644  # there is nothing secret in them, and others are to read them


@dataclass
class StatusFiles:
    """Files below `folder`. What stands in them is read once; after that it is remembered."""

    folder: Path
    written: dict[str, bytes] = field(default_factory=dict)
    steady: DeviceStatus | None = None

    def write(self, status: DeviceStatus, capabilities: bytes) -> bool:
        """Write what is new; tell whether the device's own file was. Raises OSError."""
        (self.folder / DEPLOYMENTS).mkdir(parents=True, exist_ok=True)
        deployments = {f"{DEPLOYMENTS}/{one.id}.json": manifest_bytes(one) for one in status.deployments}
        for name, data in {**deployments, CAPABILITIES_FILE: capabilities}.items():
            self._write(name, data)
        for file in (self.folder / DEPLOYMENTS).glob("*.json"):
            if f"{DEPLOYMENTS}/{file.name}" not in deployments:
                file.unlink()
                self.written.pop(f"{DEPLOYMENTS}/{file.name}", None)
        if status.steady == (self.steady or self._there()):
            self.steady = status.steady
            return False
        write_whole(self.folder / DEVICE_FILE, status.to_bytes(), mode=MODE)
        self.steady = status.steady
        return True

    def _write(self, name: str, data: bytes) -> None:
        file = self.folder / name
        if name not in self.written:
            self.written[name] = file.read_bytes()[: len(data) + 1] if file.is_file() else b""
        if self.written[name] != data:
            write_whole(file, data, mode=MODE)
            self.written[name] = data

    def _there(self) -> DeviceStatus | None:
        """Return what an earlier run left."""
        try:
            with (self.folder / DEVICE_FILE).open("rb") as stream:
                return parse_device_status(stream.read(DEVICE_LIMIT_BYTES + 1)).steady
        except (OSError, FormatError):
            return None
