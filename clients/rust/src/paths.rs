//! The weights as files, for a sandbox that cannot be given descriptors.

use std::fs::File;
use std::path::Path;

use crate::Failure;

/// Opens the files of a grant where this process sees the folder that they lie in.
pub fn open(folder: &Path, paths: &[String]) -> Result<Vec<File>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let name = Path::new(path).file_name().ok_or("the loader named no file")?;
        let here = folder.join(name);
        let file = File::open(&here)
            .map_err(|error| format!("{} cannot be opened: {error}", here.display()))?;
        files.push(file);
    }
    Ok(files)
}
