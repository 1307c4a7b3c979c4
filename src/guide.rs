//! Where the texts of errors lead to.

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
