//! The fuzzer's bytes as numbers, pieces and patches. What is missing counts as 0.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next bytes, after a length of two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let count = self.u16();
        self.bytes(usize::from(count))
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Changes `file`, which consists of units of `unit` bytes, as the input says, at most 64 times, and
    /// returns which units were changed. A patch is: what to do, a unit, a place in it, and the bytes.
    pub fn patch(&mut self, file: &mut Vec<u8>, unit: usize) -> Vec<usize> {
        let mut changed = Vec::new();
        for _ in 0..64 {
            let (act, number, place) = (self.u8(), self.u8(), self.u16());
            let count = file.len().div_ceil(unit);
            if act == 0 || count == 0 {
                break;
            }
            let index = usize::from(number) % count;
            // Fields stand at the start of a unit; content is anywhere.
            let place = usize::from(place) % if act & 0x10 == 0 { unit } else { unit.min(128) };
            let at = index * unit + place;
            match act & 0x0f {
                1 => put(file, at, &self.array::<1>()),
                2 => put(file, at, &self.array::<2>()),
                3 => put(file, at, &self.array::<4>()),
                4 => put(file, at, &self.array::<8>()),
                5 => put(file, at, &u64::from(self.u8()).to_le_bytes()),
                6 => put(file, at, &u64::MAX.to_le_bytes()),
                7 => {
                    let from = usize::from(self.u8()) % count * unit;
                    let copy: Vec<u8> = file[from..].iter().copied().take(unit).collect();
                    put(file, index * unit, &copy);
                }
                8 => file.truncate(at),
                9 => file.resize(at.max(file.len()) + usize::from(self.u16()), 0),
                _ => put(file, at, self.piece()),
            }
            changed.push(index);
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

/// Writes as much of `bytes` as `file` has room for.
fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    let Some(room) = file.get_mut(at..) else {
        return;
    };
    let count = bytes.len().min(room.len());
    room[..count].copy_from_slice(&bytes[..count]);
}
