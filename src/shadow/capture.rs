//! The two orders that keep the promise on the engine's side, over traits, so that the model checker
//! runs exactly these steps on its own memory.

use crate::page::PageNo;

/// A page that pins lack.
#[derive(Debug)]
pub struct Lacked<P, I> {
    /// The page.
    pub page: PageNo,
    /// The pins that have no entry for it and whose snapshot has it; at least one.
    pub pins: Vec<P>,
    /// Its live content, as it is.
    pub image: I,
}

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
    /// The live content of `pages`, as it is; one for each.
    fn pre_images(&self, pages: &[PageNo]) -> Vec<Self::Image>;
    /// Puts all images into slots, and only then the slots into the indexes of the pins; pins that cannot
    /// take theirs end visibly. Or does nothing and says `false`: then it is done page by page.
    fn store_and_publish_all(
        &self,
        lacked: &[Lacked<Self::Pin, Self::Image>],
    ) -> Result<bool, Self::Error>;
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

/// Captures `pages` for every pin that lacks them. Only after `Ok` may they be overwritten (S1): all of
/// them are published before the first is overwritten, so they may be read, stored and published together.
///
/// The fence comes also where no pin lacks a page: a pin may have ended on another thread, and its
/// end must be seen before the overwrite (S3).
///
/// Errors: the first of storing and publishing; then nothing may be overwritten.
pub fn capture<S: CaptureSteps>(steps: &S, pages: &[PageNo]) -> Result<(), S::Error> {
    let pins = pages.iter().map(|&page| (page, steps.pins_lacking(page)));
    let (pages, pins): (Vec<_>, Vec<_>) = pins.filter(|(_, pins)| !pins.is_empty()).unzip();
    if !pages.is_empty() {
        let images = steps.pre_images(&pages);
        let lacked = pages.into_iter().zip(pins).zip(images);
        let lacked: Vec<_> = lacked
            .map(|((page, pins), image)| Lacked { page, pins, image })
            .collect();
        if !steps.store_and_publish_all(&lacked)? {
            for Lacked { page, pins, image } in &lacked {
                for pin in pins {
                    steps.store_and_publish(pin, *page, image)?;
                }
            }
        }
    }
    steps.fence();
    Ok(())
}

/// Fills slots by `write`, in order: whatever was done to see that the slots are free stands before the
/// images, and the images before any entry that leads to one. `write` may find an image there already.
///
/// Errors: those of `write`; no entry may then lead to a slot that it was to fill.
pub fn fill_slots<E>(fence: impl Fn(), write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
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
