//! Every colour of the pictures, and the rules that turn an inlined SVG dark.

use plotters::style::RGBColor;

pub type Color = RGBColor;

/// Text, and what must stand out.
pub const INK: Color = RGBColor(0x1F, 0x23, 0x28);
/// Axes and secondary text.
pub const MUTED: Color = RGBColor(0x59, 0x63, 0x6E);
pub const GRID: Color = RGBColor(0xDD, 0xE2, 0xE7);
pub const BACKGROUND: Color = RGBColor(0xFF, 0xFF, 0xFF);
/// Time before the work begins, and time after it in which nothing useful happens: pale, so that the
/// work stands out.
pub const DELAY: Color = RGBColor(0xE3, 0xB6, 0x45);
pub const WASTE: Color = RGBColor(0xC4, 0xCC, 0xD4);

const DARK: [(Color, &str); 9] = [
    (INK, "#E6EDF3"),
    (MUTED, "#9DA7B3"),
    (GRID, "#2F363D"),
    (BACKGROUND, "var(--picture-background, #0D1117)"),
    (WASTE, "#484F58"),
    // Thin lines of these need more light.
    (PALETTE[0], "#4A9BE8"),
    (PALETTE[2], "#4DA97C"),
    (PALETTE[3], "#CC74B5"),
    (PALETTE[5], "#A57BFF"),
];

/// Blue, orange, green, plum, olive, violet, cyan, grey: at least 3 to 1 against white and against
/// the dark background, and apart from each other under red and green blindness too.
pub const PALETTE: [Color; 8] = [
    RGBColor(0x1F, 0x77, 0xC9),
    RGBColor(0xE8, 0x54, 0x0C),
    RGBColor(0x2A, 0x75, 0x52),
    RGBColor(0xA6, 0x4B, 0x8E),
    RGBColor(0x7C, 0x9A, 0x2B),
    RGBColor(0x8A, 0x4F, 0xF0),
    RGBColor(0x1C, 0x9F, 0xC5),
    RGBColor(0x8F, 0x8A, 0x88),
];

/// The colour of the `index`-th series; they repeat after [`PALETTE`]'s length.
pub fn series(index: usize) -> Color {
    PALETTE[index % PALETTE.len()]
}

/// What a request, or its row of a batch, spends time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Waiting,
    Prefill,
    Decode,
    /// Its own work is done, its batch is not.
    Idle,
    /// It lost its KV pages, and what was in them is computed again.
    Preempted,
    /// Waiting and prefill, where a server does not tell them apart.
    FirstToken,
}

impl Phase {
    pub const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Prefill,
        Self::Decode,
        Self::Idle,
        Self::Preempted,
        Self::FirstToken,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Idle => "idle",
            Self::Preempted => "preempted",
            Self::FirstToken => "until the first token",
        }
    }

    pub fn color(self) -> Color {
        match self {
            Self::Waiting => DELAY,
            Self::Prefill => PALETTE[1],
            Self::Decode => PALETTE[0],
            Self::Idle => WASTE,
            Self::Preempted => PALETTE[3],
            Self::FirstToken => PALETTE[4],
        }
    }
}

/// The phases' colours for style sheets, `--phase-waiting` and so on, light and dark.
pub fn phase_variables() -> String {
    let dark = |color: Color| {
        let found = DARK.iter().find(|(light, _)| *light == color);
        found.map_or_else(|| hex(color), |(_, dark)| (*dark).into())
    };
    let variables = |of: &dyn Fn(Color) -> String| -> String {
        let phases = Phase::ALL.into_iter();
        phases
            .map(|phase| format!("--phase-{}:{};", phase.name(), of(phase.color())))
            .collect()
    };
    format!(
        ":root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n",
        variables(&hex),
        variables(&dark)
    )
}

/// As plotters writes colours into the SVG.
pub fn hex(color: Color) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// Style sheet for pages that inline pictures inside an element of class `picture`. It makes them
/// as wide as the page, scrollable where they would become too small to read, and dark where the
/// reader prefers that; print stays light. `--picture-background` is the page's own colour.
pub fn css() -> String {
    let white = hex(BACKGROUND);
    let mut css = format!(
        ".picture{{overflow-x:auto}}\n\
         .picture svg{{display:block;width:100%;min-width:640px;height:auto}}\n\
         .picture [fill=\"{white}\"]{{fill:var(--picture-background, {white})}}\n\
         @media print{{.picture svg{{min-width:0}}}}\n\
         @media screen and (prefers-color-scheme:dark){{\n"
    );
    for (light, dark) in DARK {
        let light = hex(light);
        css += &format!(".picture [fill=\"{light}\"]{{fill:{dark}}}\n");
        css += &format!(".picture [stroke=\"{light}\"]{{stroke:{dark}}}\n");
    }
    css + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luminance(color: Color) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            match c <= 0.04045 {
                true => c / 12.92,
                false => ((c + 0.055) / 1.055).powf(2.4),
            }
        };
        0.2126 * linear(color.0) + 0.7152 * linear(color.1) + 0.0722 * linear(color.2)
    }

    fn contrast(a: Color, b: Color) -> f64 {
        let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
        a.max(b) / a.min(b)
    }

    #[test]
    fn colours_can_be_seen_on_white_and_on_dark() {
        for color in PALETTE {
            for background in [BACKGROUND, RGBColor(0x0D, 0x11, 0x17)] {
                assert!(contrast(color, background) >= 3.0, "{}", hex(color));
            }
        }
        assert!(contrast(INK, BACKGROUND) >= 7.0);
        assert!(contrast(MUTED, BACKGROUND) >= 4.5);
    }

    #[test]
    fn phases_have_variables_in_both_schemes() {
        let css = phase_variables();
        assert!(css.contains("--phase-decode:#1F77C9;"));
        assert!(css.contains("--phase-decode:#4A9BE8;"));
        assert_eq!(css.matches("--phase-waiting:#E3B645;").count(), 2);
    }

    #[test]
    fn the_style_sheet_remaps_every_neutral_colour() {
        let css = css();
        for color in [INK, MUTED, GRID, BACKGROUND, WASTE] {
            assert!(css.contains(&format!("[fill=\"{}\"]", hex(color))));
            assert!(css.contains(&format!("[stroke=\"{}\"]", hex(color))));
        }
        assert_eq!(css.matches('{').count(), css.matches('}').count());
    }
}
