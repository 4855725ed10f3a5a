//! Tar headers: one form, ours. A header is accepted when it is, byte for byte, the one that would be written in its
//! place, so there is nothing to interpret but a size.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format".

/// Members begin and end on multiples of this.
pub(super) const BLOCK: usize = 512;
/// What an archive ends with: two blocks of zeros.
pub(super) const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..135;
const MTIME: std::ops::Range<usize> = 136..147;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const PREFIX: std::ops::Range<usize> = 345..500;

pub(super) type Header = [u8; BLOCK];

/// The header of a member: a regular file, mode 0600, of user and group 0. `mtime` is in seconds since 1970.
///
/// `None` when the name does not fit in 100 bytes behind a slash and 155 before it, or a number in 11 octal digits.
pub(super) fn header(name: &str, size: u64, mtime: i64) -> Option<Header> {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    let (prefix, name) = split(name)?;
    put(NAME.start, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(SIZE.start, octal(size)?.as_bytes());
    put(MTIME.start, octal(u64::try_from(mtime).ok()?)?.as_bytes());
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(PREFIX.start, prefix.as_bytes());
    // The sum of all bytes, its own field taken as spaces.
    let sum = header.iter().map(|&byte| u32::from(byte)).sum::<u32>() + CHECKSUM.len() as u32 * u32::from(b' ');
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(header)
}

fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME.len() {
        return Some(("", name));
    }
    let fits = |(slash, _): &(usize, &str)| *slash <= PREFIX.len() && name.len() - slash - 1 <= NAME.len();
    name.match_indices('/').find(fits).map(|(slash, _)| (&name[..slash], &name[slash + 1..]))
}

fn octal(number: u64) -> Option<String> {
    (number < 1 << 33).then(|| format!("{number:011o}"))
}

/// Name in a header, as it stands there.
pub(super) fn name(header: &Header) -> Option<String> {
    let text = |field: &[u8]| {
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map(str::to_owned).ok()
    };
    let (prefix, name) = (text(&header[PREFIX])?, text(&header[NAME])?);
    Some(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// Size of the member, in bytes.
pub(super) fn size(header: &Header) -> Option<u64> {
    number(&header[SIZE])
}

pub(super) fn mtime(header: &Header) -> Option<i64> {
    number(&header[MTIME]).and_then(|seconds| i64::try_from(seconds).ok())
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| matches!(digit, b'0'..=b'7').then(|| number << 3 | u64::from(digit - b'0')))
}

/// Bytes from the end of a member of this size to the next block.
pub(super) fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}
