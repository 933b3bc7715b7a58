//! An interrupt while it lasts, and the functions that it calls.

use super::who::Who;
use crate::domain::trace::event::Context;

/// An interrupt that has begun and is not over.
#[derive(Debug)]
pub struct Frame {
    context: Context,
    /// The functions that it called, each with its time; what is outside of them belongs to the first.
    parts: Vec<Part>,
    open: usize,
    /// Whether any of it was taken from somebody.
    is_taken: bool,
}

#[derive(Debug)]
struct Part {
    function: Option<u64>,
    ns: u64,
}

impl Frame {
    /// Returns the frame of an interrupt that begins.
    pub fn new(context: Context) -> Self {
        let whole = Part {
            function: None,
            ns: 0,
        };
        Frame {
            context,
            parts: vec![whole],
            open: 0,
            is_taken: false,
        }
    }

    /// It calls a function.
    pub fn call(&mut self, function: u64) {
        match &mut self.parts[0].function {
            none @ None => *none = Some(function),
            Some(_) => {
                self.parts.push(Part {
                    function: Some(function),
                    ns: 0,
                });
                self.open = self.parts.len() - 1;
            }
        }
    }

    /// The function has returned.
    pub fn come_back(&mut self) {
        self.open = 0;
    }

    /// Adds time that it has taken to the part that is open.
    pub fn take(&mut self, ns: u64) {
        self.parts[self.open].ns += ns;
        self.is_taken = true;
    }

    /// Returns who has taken how much, now that it is over.
    pub fn over(self) -> Vec<(Who, u64)> {
        let Frame { context, .. } = self;
        if !self.is_taken {
            return Vec::new();
        }
        let parts = self.parts.into_iter();
        let taken = parts.map(|part| {
            let context = context.clone();
            let who = match part.function {
                Some(function) => Who::Function(context, function),
                None => Who::Interrupt(context),
            };
            (who, part.ns)
        });
        taken.collect()
    }
}
