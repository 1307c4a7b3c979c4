//! Where the texts of errors lead to, and where they are printed.

/// The address of a page of the guide, in brackets: the end of an error text. `asyncjob-tokio` and its siblings use it,
/// too.
///
/// The address begins with the repository that the package names, so that the texts of a fork lead to its own guide.
#[doc(hidden)]
#[macro_export]
macro_rules! guide_page {
    ($page:literal) => {
        concat!(
            " [",
            env!("CARGO_PKG_REPOSITORY"),
            "/blob/HEAD/docs/guide/",
            $page,
            ".md]"
        )
    };
}

/// `Debug` of an error enum: the variant, the sentence of its `Display`, and its source. `unwrap`, `expect` and a
/// `main` that returns a `Result` print an error by `Debug`, and whoever reads it there needs the sentence most.
///
/// Every variant has to be named: the compiler says which is missing.
#[doc(hidden)]
#[macro_export]
macro_rules! debug_with_sentence {
    ($error:ident $(<$parameter:ident>)?: $($variant:ident),+ $(,)?) => {
        impl $(<$parameter>)? ::std::fmt::Debug for $error $(<$parameter>)? {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let variant = match self {
                    $(Self::$variant { .. } => stringify!($variant),)+
                };
                write!(f, "{variant}: {self}")?;
                match ::std::error::Error::source(self) {
                    Some(source) => write!(f, ": {source:?}"),
                    None => Ok(()),
                }
            }
        }
    };
}
