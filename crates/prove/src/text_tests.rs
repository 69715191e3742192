use proptest::prelude::*;

use super::*;

fn atom() -> impl Strategy<Value = TextAtom> {
    let piece = prop_oneof![
        "[ab/]".prop_map(|text| Piece::One(Set::Character(text.chars().next().unwrap()))),
        Just(Piece::Run(Set::Any)),
        Just(Piece::Run(Set::NotSlash)),
        Just(Piece::One(Set::NotSlash)),
    ];
    prop_oneof![
        Just(TextAtom::NotEmpty),
        "[ab/]{0,4}".prop_map(TextAtom::Exact),
        "[ab/]{0,3}".prop_map(TextAtom::Prefix),
        "[ab/]{0,3}".prop_map(TextAtom::Suffix),
        prop::collection::vec(piece, 0..5).prop_map(TextAtom::Pattern),
        "[ab/]{0,3}".prop_map(|text| TextAtom::AnyCase(Box::new(TextAtom::Suffix(text)))),
    ]
}

proptest! {
    /// Every class's example is accepted by exactly its atoms, and every text is of exactly one class.
    #[test]
    fn classes_divide_all_texts(atoms in prop::collection::vec(atom(), 0..6), texts in prop::collection::vec("[abAc/]{0,6}", 20)) {
        let classes = Texts::Any.divide(&atoms, &[], true).unwrap();
        let vector = |text: &str| atoms.iter().map(|atom| atom.accepts(text)).collect::<Vec<_>>();
        let of_class = |class: usize| classes.accepted.iter().map(|bits| bits.has(class)).collect::<Vec<_>>();
        for (class, example) in classes.examples.iter().enumerate() {
            match example {
                Some(example) => prop_assert_eq!(vector(example), of_class(class), "{}", example),
                None => prop_assert!(of_class(class).iter().all(|is_in| !is_in)),
            }
        }
        for text in texts {
            let same = (1..classes.examples.len()).filter(|class| of_class(*class) == vector(&text)).count();
            prop_assert_eq!(same, 1, "{}", text);
        }
    }
}

#[test]
fn identities_are_those_that_the_mesh_issues() {
    let identities = Texts::Identity {
        head: "td/ns/".to_owned(),
    };
    for (text, is_one) in [
        ("td/ns/a/sa/b", true),
        ("td/ns/a-b.c/sa/b", true),
        ("td/ns/a-/sa/b", false),
        ("td/ns/a/sa/", false),
        ("td/ns/a/sa/b/c", false),
        ("td2/ns/a/sa/b", false),
        ("td/ns/A/sa/b", false),
    ] {
        assert_eq!(identities.contains(text), is_one, "{text}");
    }
}
