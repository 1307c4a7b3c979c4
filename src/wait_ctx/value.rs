//! Values of any type, of which most need no box.
//!
//! ```text
//!     WaitValue                        Table, one for each type
//!   +-----------+-----------+        +---------+----------------------+
//!   | the value | the table | -----> | type_id | drop, if it does any |
//!   +-----------+-----------+        +---------+----------------------+
//!     or its box
//! ```

use std::any::{TypeId, type_name};
use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit, needs_drop};

/// A value of a wait ctx: what owns a wait fd, or whatever else was added with it.
///
/// [`WaitCtx::clear_fd`](super::WaitCtx::clear_fd) gives it back, and [`downcast`](Self::downcast) makes it what it
/// was. A value of a word or less (an `OwnedFd`, a socket, an `Arc`) costs no allocation.
///
/// ```
/// use asyncjob::WaitValue;
///
/// let value = WaitValue::new(String::from("a request"));
/// let Err(value) = value.downcast::<u32>() else { panic!() };
/// assert_eq!(value.downcast::<String>().unwrap(), "a request");
/// ```
pub struct WaitValue {
    /// The value, or a pointer to its box.
    word: MaybeUninit<*mut ()>,
    table: &'static Table,
}

/// A place for a value, which may be empty. Its two words are written and read one by one: see `entries::List`.
pub(super) struct ValueSlot {
    word: MaybeUninit<*mut ()>,
    table: Option<&'static Table>,
}

struct Table {
    type_id: fn() -> TypeId,
    type_name: fn() -> &'static str,
    /// Drops the value in the word, or the box to which the word points.
    drop: Option<unsafe fn(&mut MaybeUninit<*mut ()>)>,
}

// SAFETY: the value is `Send`, as `new` demands.
unsafe impl Send for WaitValue {}
// SAFETY: a shared reference leads to no value.
unsafe impl Sync for WaitValue {}

/// The two forms of a type.
struct Form<V>(V);

impl<V: Send + 'static> Form<V> {
    const IS_INLINE: bool = size_of::<V>() <= size_of::<*mut ()>() && align_of::<V>() <= align_of::<*mut ()>();

    const TABLE: &'static Table = &Table {
        type_id: TypeId::of::<V>,
        type_name: type_name::<V>,
        drop: if Self::IS_INLINE && !needs_drop::<V>() {
            None
        } else {
            Some(Self::drop)
        },
    };

    /// Where the value is.
    ///
    /// # Safety
    ///
    /// The word is that of a `WaitValue` of this type.
    #[inline]
    unsafe fn place(word: &mut MaybeUninit<*mut ()>) -> *mut V {
        if Self::IS_INLINE {
            word.as_mut_ptr().cast()
        } else {
            // SAFETY: the word of a value that is not inline is the pointer of its box.
            unsafe { word.assume_init() }.cast()
        }
    }

    /// # Safety
    ///
    /// As for [`place`](Self::place), and the word is not used any more.
    unsafe fn drop(word: &mut MaybeUninit<*mut ()>) {
        // SAFETY: the caller's promise.
        let place = unsafe { Self::place(word) };
        if Self::IS_INLINE {
            // SAFETY: the value is there and is not used any more.
            unsafe { place.drop_in_place() };
        } else {
            // SAFETY: the pointer is that of a box that is not used any more.
            drop(unsafe { Box::from_raw(place) });
        }
    }
}

impl WaitValue {
    /// Makes a value of any type one.
    #[inline]
    pub fn new<V: Send + 'static>(value: V) -> Self {
        let mut word = MaybeUninit::<*mut ()>::uninit();
        if Form::<V>::IS_INLINE {
            // SAFETY: the word has room for the value and its alignment.
            unsafe { word.as_mut_ptr().cast::<V>().write(value) };
        } else {
            word.write(Box::into_raw(Box::new(value)).cast());
        }
        WaitValue {
            word,
            table: Form::<V>::TABLE,
        }
    }

    /// Whether the value is a `V`.
    #[inline]
    pub fn is<V: 'static>(&self) -> bool {
        (self.table.type_id)() == TypeId::of::<V>()
    }

    /// The value, if it is a `V`.
    ///
    /// # Errors
    ///
    /// It is of another type: the error is `self`.
    #[inline]
    pub fn downcast<V: Send + 'static>(self) -> Result<V, Self> {
        if !self.is::<V>() {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the value is a `V`.
        let place = unsafe { Form::<V>::place(&mut this.word) };
        if Form::<V>::IS_INLINE {
            // SAFETY: the value is there, and moves out of what is not dropped.
            Ok(unsafe { place.read() })
        } else {
            // SAFETY: the pointer is that of the box, which moves out of what is not dropped.
            Ok(*unsafe { Box::from_raw(place) })
        }
    }

    /// The value in its place, if it is a `V`.
    #[inline]
    pub fn downcast_mut<V: Send + 'static>(&mut self) -> Option<&mut V> {
        if !self.is::<V>() {
            return None;
        }
        // SAFETY: the value is a `V`.
        let place = unsafe { Form::<V>::place(&mut self.word) };
        // SAFETY: the value is there, and is borrowed with `self`.
        Some(unsafe { &mut *place })
    }
}

impl WaitValue {
    #[inline]
    pub(super) fn into_slot(self) -> ValueSlot {
        let this = ManuallyDrop::new(self);
        ValueSlot {
            word: this.word,
            table: Some(this.table),
        }
    }
}

// SAFETY: as for a `WaitValue`.
unsafe impl Send for ValueSlot {}

impl Default for ValueSlot {
    #[inline]
    fn default() -> Self {
        ValueSlot {
            word: MaybeUninit::uninit(),
            table: None,
        }
    }
}

impl ValueSlot {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none()
    }

    /// Fills the slot, which is empty.
    #[inline]
    pub(super) fn set(&mut self, value: ValueSlot) {
        debug_assert!(self.is_empty());
        let value = ManuallyDrop::new(value);
        (self.word, self.table) = (value.word, value.table);
    }

    #[inline]
    pub(super) fn take(&mut self) -> Option<WaitValue> {
        let table = self.table.take()?;
        Some(WaitValue { word: self.word, table })
    }
}

impl Drop for ValueSlot {
    #[inline]
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl Drop for WaitValue {
    #[inline]
    fn drop(&mut self) {
        if let Some(drop) = self.table.drop {
            // SAFETY: the table is that of the type of the value, which is dropped once.
            unsafe { drop(&mut self.word) };
        }
    }
}

impl fmt::Debug for WaitValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WaitValue")
            .field(&format_args!("{}", (self.table.type_name)()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;

    fn roundtrip<V: Send + Clone + PartialEq + fmt::Debug + 'static>(v: V) {
        let mut value = WaitValue::new(v.clone());
        assert!(value.is::<V>() && !value.is::<Rc<u8>>());
        assert_eq!(value.downcast_mut::<V>(), Some(&mut v.clone()));
        assert_eq!(value.downcast_mut::<Option<V>>(), None);
        let Err(value) = value.downcast::<[V; 2]>() else {
            panic!("it is not an array")
        };
        assert_eq!(value.downcast::<V>().unwrap(), v);
    }

    #[test]
    fn a_value_of_each_size_comes_back() {
        #[derive(Clone, Debug, PartialEq)]
        #[repr(align(16))]
        struct Aligned;
        roundtrip(());
        roundtrip(7u8);
        roundtrip([1u8, 2, 3]);
        roundtrip(7u64);
        roundtrip(Some(Box::new(7)));
        roundtrip(7u128);
        roundtrip(Aligned);
        roundtrip([7u64; 20]);
        roundtrip(String::from("value"));
    }

    #[test]
    fn a_value_is_dropped_once() {
        let counted = Arc::new(());
        let large = || (Arc::clone(&counted), [0u64; 5]);
        drop(WaitValue::new(Arc::clone(&counted)));
        drop(WaitValue::new(large()));
        let taken = WaitValue::new(Arc::clone(&counted)).downcast::<Arc<()>>();
        let taken_too = WaitValue::new(large()).downcast::<(Arc<()>, [u64; 5])>();
        assert_eq!(Arc::strong_count(&counted), 3);
        drop((taken, taken_too));
        assert_eq!(Arc::strong_count(&counted), 1);
    }

    #[test]
    fn its_text_names_the_type() {
        assert_eq!(format!("{:?}", WaitValue::new(7u8)), "WaitValue(u8)");
    }
}
