//! The two orders that keep the promise on the engine's side, over traits, so that the model checker
//! runs exactly these steps on its own memory.

use crate::page::PageNo;

/// What a capture works on.
pub trait CaptureSteps {
    /// A pin.
    type Pin;
    /// A pre-image.
    type Image;
    /// Why the overwrite must not happen.
    type Error;

    /// The active pins that have no entry for `page` and whose snapshot has it.
    fn pins_lacking(&self, page: PageNo) -> Vec<Self::Pin>;
    /// The live content of `page`, as it is.
    fn pre_image(&self, page: PageNo) -> Self::Image;
    /// Puts the image into a slot, then the slot into the pin's index; or ends the pin visibly.
    fn store_and_publish(
        &self,
        pin: &Self::Pin,
        page: PageNo,
        image: &Self::Image,
    ) -> Result<(), Self::Error>;
    /// Orders the publications before the overwrite (SeqCst).
    fn fence(&self);
}

/// Captures `pages` for every pin that lacks them. Only after `Ok` may they be overwritten (S1).
///
/// The fence comes also where no pin lacks a page: a pin may have ended on another thread, and its
/// end must be seen before the overwrite (S3).
///
/// Errors: the first of `store_and_publish`; then nothing may be overwritten.
pub fn capture<S: CaptureSteps>(steps: &S, pages: &[PageNo]) -> Result<(), S::Error> {
    for &page in pages {
        let lacking = steps.pins_lacking(page);
        if lacking.is_empty() {
            continue;
        }
        let image = steps.pre_image(page);
        for pin in &lacking {
            steps.store_and_publish(pin, page, &image)?;
        }
    }
    steps.fence();
    Ok(())
}

/// Fills a slot by `write`, in order: whatever was done to see that the slot is free stands before the
/// image, and the image before any entry that leads to it. `write` may find the image there already.
///
/// Errors: those of `write`; no entry may then lead to the slot.
pub fn fill_slot<E>(fence: impl Fn(), write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    fence();
    write()?;
    fence();
    Ok(())
}

/// What ending a pin works on.
pub trait EndSteps {
    /// The slots that the pin held.
    type Freed;
    /// Why the end could not be made visible.
    type Error;

    /// Cuts the index to nothing: every later read of the pin sees it. Gives what the pin held.
    fn cut_index(&self) -> Result<Self::Freed, Self::Error>;
    /// Orders the cut before any reuse (SeqCst).
    fn fence(&self);
    /// Lets the slots be used for others.
    fn free_slots(&self, freed: Self::Freed);
}

/// Ends a pin (S3). Errors: of `cut_index`; nothing is then freed.
pub fn end_pin<S: EndSteps>(steps: &S) -> Result<(), S::Error> {
    let freed = steps.cut_index()?;
    steps.fence();
    steps.free_slots(freed);
    Ok(())
}
