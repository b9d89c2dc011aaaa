"""Which roles may call which method. A method that does not stand here may be called by nobody.

Roles imply nothing: each row names all of them. What depends on the request is decided by the service
(``path`` and ``files`` of a record, the folder of a local source).
"""

from __future__ import annotations

from collections.abc import Mapping

from .principal import ADMIN, DOWNLOAD, INSTALL, LOADER, OPERATOR, RECORD, VIEWER, WORKER

_LOOK = frozenset({VIEWER, OPERATOR, ADMIN})
_WORK = frozenset({OPERATOR, ADMIN})
_SERVICES = frozenset({RECORD, DOWNLOAD, INSTALL, LOADER, WORKER})
_INSTALLER = frozenset({INSTALL})
_BORROWER = frozenset({WORKER})

#: For every caller, also one without credentials: a load balancer has none.
EVERYBODY = frozenset({""})

_RECORD = "modelkeep.record.v1.RecordService/"
_DOWNLOAD = "modelkeep.download.v1.DownloadService/"
_INSTALL = "modelkeep.install.v1.InstallService/"
_LOADER = "modelkeep.loader.v1.LoaderService/"
_SERVER = "modelkeep.server.v1.ServerService/"
_HEALTH = "grpc.health.v1.Health/"

#: Full method name to the roles of which a caller needs one.
ALLOWED: Mapping[str, frozenset[str]] = {
    _HEALTH + "Check": EVERYBODY,
    _HEALTH + "Watch": EVERYBODY,
    _HEALTH + "List": EVERYBODY,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _LOOK,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _LOOK,
    _SERVER + "GetServerInfo": _LOOK | _SERVICES,
    #
    # A new record always says where files lie, which is for InstallService to know.
    _RECORD + "CreateModel": _INSTALLER | {ADMIN},
    _RECORD + "GetModel": _LOOK | _SERVICES,
    _RECORD + "BatchGetModels": _LOOK | _SERVICES,
    _RECORD + "FindModel": _LOOK | _SERVICES,
    _RECORD + "ListModels": _LOOK | _SERVICES,
    _RECORD + "ListModelFiles": _LOOK | _SERVICES,
    _RECORD + "UpdateModel": _WORK | _INSTALLER,
    _RECORD + "DeleteModel": _WORK | _INSTALLER,
    _RECORD + "BatchDeleteModels": _WORK | _INSTALLER,
    _RECORD + "WatchModels": _LOOK | _SERVICES,
    # For who sees the disk.
    _RECORD + "MarkModels": _INSTALLER | {ADMIN},
    # Viewers may list; an export keeps the store's log from being emptied.
    _RECORD + "ExportModels": _WORK | _INSTALLER,
    # It makes records, as CreateModel does.
    _RECORD + "ImportModels": _INSTALLER | {ADMIN},
    # It takes room on the service's disk, and the copy stays.
    _RECORD + "BackUpStore": frozenset({ADMIN}),
    _RECORD + "ListTags": _LOOK | _SERVICES,
    _RECORD + "SetCoverImage": _WORK | _INSTALLER,
    _RECORD + "GetCoverImage": _LOOK | _SERVICES,
    _RECORD + "DeleteCoverImage": _WORK | _INSTALLER,
    _RECORD + "GetStoreInfo": _LOOK | _SERVICES,
    #
    # It asks hosts that the caller names, with what tokens there are for them.
    _DOWNLOAD + "ResolveSource": _WORK | _INSTALLER,
    _DOWNLOAD + "CreateDownload": _WORK | _INSTALLER,
    _DOWNLOAD + "GetDownload": _LOOK | _INSTALLER,
    _DOWNLOAD + "ListDownloads": _LOOK | _INSTALLER,
    _DOWNLOAD + "StartDownload": _WORK | _INSTALLER,
    _DOWNLOAD + "PauseDownload": _WORK | _INSTALLER,
    _DOWNLOAD + "CancelDownload": _WORK | _INSTALLER,
    _DOWNLOAD + "RetryDownload": _WORK,
    _DOWNLOAD + "FailDownload": _WORK,
    _DOWNLOAD + "StartAllDownloads": _WORK,
    _DOWNLOAD + "PauseAllDownloads": _WORK,
    _DOWNLOAD + "CancelAllDownloads": _WORK,
    _DOWNLOAD + "UpdateDownload": _WORK | _INSTALLER,
    _DOWNLOAD + "GetLimits": _LOOK | _INSTALLER,
    # For everybody's downloads.
    _DOWNLOAD + "SetLimits": _WORK,
    _DOWNLOAD + "PruneDownloads": _WORK | _INSTALLER,
    _DOWNLOAD + "WatchDownloads": _LOOK | _INSTALLER,
    _DOWNLOAD + "WaitDownloads": _LOOK | _INSTALLER,
    #
    _INSTALL + "ImportModel": _WORK,
    _INSTALL + "RegisterPath": _WORK,
    _INSTALL + "InstallPath": _WORK,
    _INSTALL + "GetInstall": _LOOK,
    _INSTALL + "ListInstalls": _LOOK,
    _INSTALL + "PauseInstall": _WORK,
    _INSTALL + "ResumeInstall": _WORK,
    _INSTALL + "RetryInstall": _WORK,
    _INSTALL + "CancelInstall": _WORK,
    _INSTALL + "DeleteInstall": _WORK,
    _INSTALL + "PruneInstalls": _WORK,
    _INSTALL + "WatchInstalls": _LOOK,
    _INSTALL + "WaitInstalls": _LOOK,
    # It reads files that the caller names.
    _INSTALL + "ProbeModel": _WORK,
    _INSTALL + "UninstallModel": _WORK,
    _INSTALL + "CheckModels": _WORK,
    _INSTALL + "RelinkModel": _WORK,
    _INSTALL + "ScanDirectory": _WORK,
    _INSTALL + "SyncModels": _WORK,
    # As a scan: what it may read is decided by the folders that the caller may name.
    _INSTALL + "ImportInvokeAI": _WORK,
    _INSTALL + "CancelScan": _WORK,
    _INSTALL + "GetScan": _LOOK,
    _INSTALL + "ListScans": _LOOK,
    _INSTALL + "WaitScan": _LOOK,
    _INSTALL + "ListScanFindings": _LOOK,
    #
    _LOADER + "HoldModel": _WORK | _BORROWER,
    _LOADER + "AcquireLease": _WORK | _BORROWER,
    _LOADER + "RenewLease": _WORK | _BORROWER,
    _LOADER + "ReleaseLease": _WORK | _BORROWER,
    _LOADER + "DemoteLease": _WORK | _BORROWER,
    _LOADER + "PromoteLease": _WORK | _BORROWER,
    _LOADER + "RevokeLease": _WORK,
    _LOADER + "GetLease": _LOOK | _BORROWER,
    # For InstallService too, which asks who uses a model before it deletes it, and for RecordService.
    _LOADER + "ListLeases": _LOOK | _BORROWER | frozenset({INSTALL, RECORD}),
    _LOADER + "WatchLeases": _LOOK | _BORROWER,
    _LOADER + "Drain": _WORK,
    _LOADER + "Undrain": _WORK,
    _LOADER + "LoadModel": _WORK | _BORROWER,
    _LOADER + "PinModel": _WORK,
    _LOADER + "UnpinModel": _WORK,
    _LOADER + "EvictModel": _WORK,
    _LOADER + "ListResidents": _LOOK | _BORROWER,
    _LOADER + "WatchResidents": _LOOK | _BORROWER,
    _LOADER + "GetCapacity": _LOOK | _BORROWER,
    _LOADER + "WatchCapacity": _LOOK | _BORROWER,
    _LOADER + "EstimateLoad": _LOOK | _BORROWER,
}

#: For a method that does not stand in the table.
NO_ROLE: frozenset[str] = frozenset()
