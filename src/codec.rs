//! Checked little-endian reads and writes in byte slices: no offset from outside can panic.

#![deny(clippy::indexing_slicing)]

/// The `N` bytes at `offset`, or `None` where the slice is too short.
#[must_use]
pub fn get_array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The little-endian `u16` at `offset`.
#[must_use]
pub fn get_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    get_array(bytes, offset).map(u16::from_le_bytes)
}

/// The little-endian `u32` at `offset`.
#[must_use]
pub fn get_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    get_array(bytes, offset).map(u32::from_le_bytes)
}

/// The little-endian `u64` at `offset`.
#[must_use]
pub fn get_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    get_array(bytes, offset).map(u64::from_le_bytes)
}

/// Overwrites the bytes at `offset`; the caller's layout keeps them inside.
///
/// # Panics
/// If they do not fit: a bug of the caller, never of its input.
pub fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes
        .get_mut(offset..)
        .and_then(|rest| rest.get_mut(..value.len()))
        .expect("a layout's fields lie inside its buffer")
        .copy_from_slice(value);
}
