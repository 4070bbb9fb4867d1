"""Every error raised on purpose, in one tree.

The branches answer "what next?": fix the settings, answer the client, wait and
look again, count a failed attempt, or fail the job. Each message says what
happened, where, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

from .model import WaitReason


class QbmError(Exception):
    """Catches everything we raise deliberately."""

    code: ClassVar[str] = "error"  #: one stable word for API and logs

    def __str__(self) -> str:
        # A path may hold bytes that are no text, which neither the journal nor a client takes.
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class SettingsError(QbmError):
    """The settings cannot be used. ``problems`` holds one line each.

    ``warnings`` too: of what is given and has no effect, which may be the reason.
    """

    code = "settings"

    def __init__(self, problems: list[str], warnings: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.warnings = warnings


# -- answers to a client ----------------------------------------------------


class Refused(QbmError):
    """A request was refused and nothing was written."""

    status = 400
    retry_after_s: int | None = None


class QueueFull(Refused):
    """No room for another notification now."""

    code = "queue_full"
    status = 503
    retry_after_s = 5


class Draining(Refused):
    """The service is stopping."""

    code = "draining"
    status = 503
    retry_after_s = 10


class JournalUnwritable(Refused):
    """The journal cannot be written: full disk, read-only, I/O error."""

    code = "journal_unwritable"
    status = 503
    retry_after_s = 30


class NoSuchJob(Refused):
    """No job has this id."""

    code = "no_such_job"
    status = 404


class WrongState(Refused):
    """The job is in a state that does not allow this."""

    code = "wrong_state"
    status = 409


class QbittorrentAway(Refused):
    """What was asked for needs qBittorrent, and it gave no usable answer."""

    code = "qbittorrent_away"
    status = 503
    retry_after_s = 30


class TierAway(Refused):
    """What was asked for needs both tiers, and one is not mounted or gives no figures."""

    code = "tier_away"
    status = 503
    retry_after_s = 30


class TaggingDisabled(Refused):
    """Location tags are turned off."""

    code = "tagging_disabled"
    status = 409


# -- a job's troubles -------------------------------------------------------


class JobError(QbmError):
    """A step of a job did not work. The SSD data is intact whenever this is raised."""


class MustWait(JobError):
    """Nothing is wrong with the job; look again later. Never gives up by itself."""

    reason: WaitReason

    def __init__(self, message: str, *, reason: WaitReason, delay_s: float = 30.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.delay_s = delay_s


class ReadOnlyDisk(MustWait):
    """A tier's file system takes no writes now."""

    code = "read_only"


class Retryable(JobError):
    """This attempt failed; ``COPY_RETRY_ATTEMPTS`` of them fail the job."""

    code = "retryable"


class DiskError(Retryable):
    """The operating system refused a read or a write."""

    code = "io_error"


class FailingDisk(DiskError):
    """The disk answers with an I/O error. No fault of the job: it is tried again for ever."""


class SourceChanged(Retryable):
    """A file on the SSD changed, shrank or vanished while it was read."""

    code = "source_changed"


class DestinationChanged(Retryable):
    """Something appeared or changed at the destination while the job worked."""

    code = "destination_changed"


class Fatal(JobError):
    """Trying again cannot help; the user must act, then retry the job."""

    code = "failed"


class SourceCorrupt(Fatal):
    """The SSD data does not match the torrent's hashes, also when read again."""

    code = "source_corrupt"


class DestinationConflict(Fatal):
    """A different file stands at the destination; it is not ours to touch."""

    code = "destination_conflict"


class UnsafePath(Fatal):
    """A name would lead out of its tier, or cannot be a file name."""

    code = "unsafe_path"


class BadMetainfo(Fatal):
    """The exported .torrent cannot be used or is not this torrent's."""

    code = "bad_metainfo"


class SameStorage(MustWait):
    """Both tiers show the same files; copying would overwrite the source."""

    code = "same_storage"


# -- qBittorrent ------------------------------------------------------------


class QbittorrentError(QbmError):
    """Talking to qBittorrent failed."""

    code = "qbittorrent"


class QbittorrentUnreachable(QbittorrentError):
    """No usable answer: refused, timed out, or a 5xx."""

    code = "qbittorrent_unreachable"


class QbittorrentTooLate(QbittorrentUnreachable):
    """It was reached, and gave no answer in time: it may still be at work on it."""


class QbittorrentLoginRefused(QbittorrentError):
    """qBittorrent refuses our credentials, or our address is banned."""

    code = "qbittorrent_login"


class TorrentUnknown(QbittorrentError):
    """qBittorrent has no torrent with this id."""

    code = "unknown_torrent"


class TooEarlyToTell(QbittorrentError):
    """Only a newer list of all torrents can tell, and it is too early to ask for one."""

    code = "too_early_to_tell"
