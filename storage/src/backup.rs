//! Backups as files: reading one to its end, and filling an empty store from one.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use vaultdb_kv::backup::{BackupDamage, BackupDecoder, BackupHeader, BackupSummary, Piece};

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is {damage}", path.display())]
    Damaged { path: PathBuf, damage: BackupDamage },
}

/// Reads a backup piece by piece, in constant memory.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    source: BufReader<File>,
    decoder: BackupDecoder,
    /// Of the piece that is read.
    buffer: Vec<u8>,
}

impl BackupFile {
    /// # Errors
    /// [`BackupError::Io`].
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(|source| BackupError::Io { path: path.into(), source })?;
        let source = BufReader::new(file);
        Ok(Self { path: path.into(), source, decoder: BackupDecoder::default(), buffer: Vec::new() })
    }

    /// The next piece; `None` after the end, which is also the end of the file.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] names the place in the file.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, BackupError> {
        loop {
            let wanted = self.decoder.wants();
            if wanted == 0 {
                return Ok(None);
            }
            let got = self.fill(wanted)?;
            if got < wanted {
                return Err(self.damaged(self.decoder.cut_off(got)));
            }
            let piece = self.decoder.take(&self.buffer).map_err(|damage| self.damaged(damage))?;
            if let Some(Piece::End(_)) = &piece {
                if self.fill(1)? > 0 {
                    return Err(self.damaged(self.decoder.cut_off(0)));
                }
            }
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }

    /// Reads `wanted` bytes, fewer only at the end of the file.
    fn fill(&mut self, wanted: usize) -> Result<usize, BackupError> {
        self.buffer.resize(wanted, 0);
        let mut got = 0;
        while got < wanted {
            match self.source.read(&mut self.buffer[got..]) {
                Ok(0) => break,
                Ok(count) => got += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(BackupError::Io { path: self.path.clone(), source }),
            }
        }
        Ok(got)
    }

    fn damaged(&self, damage: BackupDamage) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), damage }
    }
}

/// Reads a whole backup and answers with what it is of and what it holds.
///
/// # Errors
/// [`BackupError`] for anything that is not exactly what a node wrote.
pub fn verify_backup(path: &Path) -> Result<(BackupHeader, BackupSummary), BackupError> {
    let mut file = BackupFile::open(path)?;
    let mut header = None;
    loop {
        match file.next_piece()? {
            Some(Piece::Header(found)) => header = Some(found),
            Some(Piece::Block(_)) => {}
            Some(Piece::End(summary)) => {
                return Ok((header.expect("a decoder gives the header before the end"), summary))
            }
            None => unreachable!("a decoder gives the end before there is nothing more"),
        }
    }
}
