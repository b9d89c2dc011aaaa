"""The Python client of all four services: one object, blocking or for asyncio.

::

    from modelkeep.client import Client

    with Client() as client:
        job = client.model_install.import_model("models/tiny-sd")
        client.model_install.wait_for_installs()
        for config in client.model_record_store.all_models():
            print(config.key, config.name)

Errors are the exceptions of :mod:`modelkeep.exceptions`, by reason. Calls have deadlines, and are
repeated while a service is unavailable only where that does no harm. Watches go on by themselves.
"""

from __future__ import annotations

from modelkeep.addresses import find_addresses, find_token
from modelkeep.appconfig import AppConfig
from modelkeep.client._async_client import AsyncClient
from modelkeep.client._client import Client, DownloadQueue, ModelInstall, ModelLoad, ModelRecordStore
from modelkeep.client._download_jobs import (
    DownloadEventHandler,
    DownloadFile,
    DownloadJobBase,
    DownloadJobFiles,
    DownloadJobPath,
    DownloadJobRemoteSource,
    DownloadJobRepoID,
    DownloadJobStatus,
    DownloadJobURL,
)
from modelkeep.client._download_limits import DownloadLimits
from modelkeep.client._downloads import AsyncDownloadQueue
from modelkeep.client._exports import ExportSource, ImportedRecord, OnConflict
from modelkeep.client._install_jobs import InstallStatus, ModelInstallJob
from modelkeep.client._install_requests import Uninstalled
from modelkeep.client._install_service import ModelInstallService
from modelkeep.client._installs import MODEL_EVENT, AsyncModelInstall, EventBus
from modelkeep.client._invokeai import InvokeAIModel, InvokeAIOutcome, InvokeAIProgress
from modelkeep.client._load_service import ModelLoadService
from modelkeep.client._loader import AsyncModelLoader
from modelkeep.client._queue_service import DownloadQueueService
from modelkeep.client._records import AsyncModelRecordStore
from modelkeep.client._scans import FindingKind, ModelScan, ScanFinding
from modelkeep.client._watch import WatchEvent, WatchFrame
from modelkeep.defaults import ServiceName
from modelkeep.rpc import Address

__all__ = [
    "MODEL_EVENT",
    "Address",
    "AppConfig",
    "AsyncClient",
    "AsyncDownloadQueue",
    "AsyncModelInstall",
    "AsyncModelLoader",
    "AsyncModelRecordStore",
    "Client",
    "DownloadEventHandler",
    "DownloadFile",
    "DownloadJobBase",
    "DownloadJobFiles",
    "DownloadJobPath",
    "DownloadJobRemoteSource",
    "DownloadJobRepoID",
    "DownloadJobStatus",
    "DownloadJobURL",
    "DownloadLimits",
    "DownloadQueue",
    "DownloadQueueService",
    "EventBus",
    "ExportSource",
    "FindingKind",
    "ImportedRecord",
    "InstallStatus",
    "InvokeAIModel",
    "InvokeAIOutcome",
    "InvokeAIProgress",
    "ModelInstall",
    "ModelInstallJob",
    "ModelInstallService",
    "ModelLoad",
    "ModelLoadService",
    "ModelRecordStore",
    "ModelScan",
    "OnConflict",
    "ScanFinding",
    "ServiceName",
    "Uninstalled",
    "WatchEvent",
    "WatchFrame",
    "find_addresses",
    "find_token",
]
