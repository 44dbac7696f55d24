//! The settings that are in force: replaced as a whole when devo.yaml is read again. Runs that are under way keep the equipment
//! that they were given.

use std::sync::{Arc, RwLock};

use super::outfit::Shop;
use crate::core::event::RunSpec;
use crate::core::failure::Failure;
use crate::engine::{Caps, Outfitter, Prepared};
use crate::sandboxes::Sandbox;

/// The shop of now.
pub struct Current(RwLock<Arc<Shop>>);

impl Current {
    /// Begins with this one.
    pub fn new(shop: Shop) -> Self {
        Self(RwLock::new(Arc::new(shop)))
    }

    /// The shop of now; it stays as it is for whoever holds it.
    pub fn get(&self) -> Arc<Shop> {
        self.0.read().expect("no holder of this lock can panic").clone()
    }

    /// Puts another one into force.
    pub fn set(&self, shop: Shop) {
        *self.0.write().expect("no holder of this lock can panic") = Arc::new(shop);
    }
}

impl Outfitter for Current {
    fn outfit(&self, spec: &RunSpec) -> Result<Prepared, Failure> {
        self.get().outfit(spec)
    }

    fn sandbox(&self, spec: &RunSpec) -> Option<Result<Arc<dyn Sandbox>, Failure>> {
        Outfitter::sandbox(self.get().as_ref(), spec)
    }

    fn caps(&self) -> Caps {
        self.get().caps()
    }
}
