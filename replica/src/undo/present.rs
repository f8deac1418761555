//! What is there now, as the index has it.

use mezzo_core::undo::{Present, Standing};
use mezzo_core::{ObjectId, Place};

use crate::index::{Index, StoreError};

pub(crate) struct Indexed<'a>(pub &'a Index);

impl Present for Indexed<'_> {
    type Error = StoreError;

    fn object(&self, object: ObjectId) -> Result<Option<Standing>, StoreError> {
        let entry =
            self.0.entry(object)?.filter(|entry| !entry.places.is_empty() || object == ObjectId::ROOT);
        Ok(entry.map(|entry| Standing { state: entry.state.clone(), places: entry.places.clone() }))
    }

    fn at(&self, place: &Place) -> Result<Option<ObjectId>, StoreError> {
        self.0.child(place.parent, &place.name)
    }

    fn entries(&self, directory: ObjectId) -> Result<usize, StoreError> {
        Ok(self.0.children(directory)?.len())
    }
}
