//! The order in which an incarnation takes over the live file, over a trait, so that the model checker
//! runs exactly these steps on its own memory.

/// What a takeover works on.
pub trait TakeoverSteps {
    /// Why the live file cannot be taken over.
    type Error;

    /// Both copies of the live header carry the newer copy's epoch, where they differ.
    fn unite_copies(&mut self) -> Result<(), Self::Error>;
    /// Whoever reads on under the new incarnation accepts its epoch beside that of the live header.
    fn prepare_sink(&mut self) -> Result<(), Self::Error>;
    /// Orders the acceptance before the epoch, and the epoch before the first overwrite (SeqCst).
    fn fence(&self);
    /// Both copies of the live header carry the new epoch.
    fn write_epoch(&mut self) -> Result<(), Self::Error>;
}

/// Takes the live file over. Only after `Ok` may it be written back to (E10, E11).
///
/// Errors: the first of a step; nothing may be overwritten then. Whoever comes next finds the copies
/// with the old epoch, with the new one, or with both, and any index accepts what they carry.
pub fn take_over<S: TakeoverSteps>(steps: &mut S) -> Result<(), S::Error> {
    steps.unite_copies()?;
    steps.prepare_sink()?;
    steps.fence();
    steps.write_epoch()?;
    steps.fence();
    Ok(())
}
