//! The codes of findings about what the control plane reads and keeps: `BZ04xx`.

use bartizan_config::Code;

/// A folder or file cannot be read.
pub const UNREADABLE: Code = Code::new(
    "BZ0401",
    "a source cannot be read",
    "A folder or file that was named, or one below it, cannot be read as text. Nothing of the new state is applied and \
     the version before stays. Check that it exists, that its permissions let you read it, and that it is UTF-8.",
);

/// No document files.
pub const EMPTY: Code = Code::new(
    "BZ0402",
    "there are no documents",
    "Document files end in `.yaml`, `.yml` or `.json`; hidden files and editors' backups are skipped. An empty folder never \
     ends a running mesh: the version before stays until there are documents again.",
);

/// More than is read.
pub const TOO_MUCH: Code = Code::new(
    "BZ0403",
    "the sources are larger than what is read",
    "At most 10000 files, 64 MiB of text and folders 32 deep are read, so that a link to the wrong place cannot take all \
     memory. Name the folder that holds only the mesh's documents.",
);

/// The folder is refused at the start, and a kept version is served.
pub const SERVES_KEPT: Code = Code::new(
    "BZ0404",
    "the last accepted version is served",
    "The control plane started while its sources had errors, so it serves the documents of the last version that it had \
     accepted. Fix the errors: the new state is then applied as usual.",
);

/// The disk did not take a version.
pub const NOT_KEPT: Code = Code::new(
    "BZ0405",
    "an accepted version could not be kept on disk",
    "The version is served, but a restart of the control plane would know only the one before. Free space or correct \
     permissions in the state directory; the next change is kept again.",
);

/// All of them, for `docs/findings.md`.
pub const CODES: &[Code] = &[UNREADABLE, EMPTY, TOO_MUCH, SERVES_KEPT, NOT_KEPT];
