//! The commands, one file each.

use std::time::Duration;

pub mod apply;
pub mod delete;
pub mod describe;
pub mod exec;
pub mod get;
pub mod logs;

/// Reads a length of time such as `30s`, `1m30s` or `5` (seconds).
///
/// # Errors
/// When it is none, or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let nanos = api::duration::parse(text).map_err(|error| error.to_string())?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| "it must not be negative".to_owned())
}
