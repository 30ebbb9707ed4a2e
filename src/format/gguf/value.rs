//! The values of GGUF keys.

/// The type of a value by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// 0.
    U8,
    /// 1.
    I8,
    /// 2.
    U16,
    /// 3.
    I16,
    /// 4.
    U32,
    /// 5.
    I32,
    /// 6.
    F32,
    /// 7, one byte.
    Bool,
    /// 8.
    String,
    /// 9.
    Array,
    /// 10.
    U64,
    /// 11.
    I64,
    /// 12.
    F64,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type of that number.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        usize::try_from(id).ok().and_then(|at| Self::ALL.get(at)).copied()
    }

    /// The number in the file.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; `None` for strings and arrays, which say their own length.
    #[must_use]
    pub fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// A text as far as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The first bytes of it, decoded with replacement characters; not made printable.
    pub kept: String,
    /// Its length in the file, in bytes.
    pub length: u64,
}

/// An array: its shape, and its elements where they are few numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Type of its elements.
    pub element: ValueType,
    /// How many it has in the file.
    pub count: u64,
    /// All of them, or none: a reader keeps short arrays of numbers only.
    pub kept: Vec<Value>,
}

/// A value with the type that it has in the file.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// A whole number of any width; `None` for a negative one and for anything else.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// A text as far as it was kept.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(&text.kept),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(is) => Some(*is),
            _ => None,
        }
    }

    /// An array.
    #[must_use]
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Value {
    fn from(kept: String) -> Self {
        Self::String(Text { length: kept.len() as u64, kept })
    }
}

/// An array; an empty one is written as an array of strings.
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        let kept: Vec<Value> = items.into_iter().map(Into::into).collect();
        let element = kept.first().map_or(ValueType::String, Self::value_type);
        Self::Array(Array { element, count: kept.len() as u64, kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_type_leads_back_to_it() {
        for id in 0..=12 {
            assert_eq!(ValueType::from_id(id).unwrap().id(), id);
        }
        for id in [13, 255, u32::MAX] {
            assert_eq!(ValueType::from_id(id), None);
        }
    }

    #[test]
    fn whole_numbers_of_every_width_count_and_negative_ones_do_not() {
        for value in
            [Value::U8(7), Value::I8(7), Value::U16(7), Value::I16(7), Value::I32(7), Value::U64(7), Value::I64(7)]
        {
            assert_eq!(value.as_u64(), Some(7), "{value:?}");
        }
        for value in [Value::I8(-1), Value::I64(-1), Value::F32(1.0), Value::Bool(true), Value::from("7")] {
            assert_eq!(value.as_u64(), None, "{value:?}");
        }
    }
}
