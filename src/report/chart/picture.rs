//! The finished picture: SVG text, and the PNG made from it.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::font;

/// Pixels of the PNG per pixel of the picture.
const PNG_SCALE: u32 = 2;

/// Why there is no picture. Data cannot cause any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChartError {
    #[error("the font of the charts cannot be used")]
    Font,
    #[error("a chart cannot be drawn: {0}")]
    Draw(String),
    #[error("a chart cannot be made a PNG: {0}")]
    Png(String),
}

/// One chart, `width` × `height` pixels; the SVG scales to any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub svg: String,
    pub width: u32,
    pub height: u32,
}

impl Picture {
    /// The picture as a PNG, twice its size for sharpness. Only the font of the program is used.
    pub fn png(&self) -> Result<Vec<u8>, ChartError> {
        static OPTIONS: LazyLock<Options<'static>> = LazyLock::new(|| {
            let mut fonts = fontdb::Database::new();
            fonts.load_font_data(font::BYTES.to_vec());
            Options {
                font_family: font::NAME.into(),
                fontdb: Arc::new(fonts),
                ..Options::default()
            }
        });
        let failed = |cause: String| ChartError::Png(cause);
        let tree = Tree::from_str(&self.svg, &OPTIONS).map_err(|e| failed(e.to_string()))?;
        let (width, height) = (self.width * PNG_SCALE, self.height * PNG_SCALE);
        let mut pixels = Pixmap::new(width, height)
            .ok_or_else(|| failed(format!("{width} × {height} pixels are too many")))?;
        let scale = Transform::from_scale(PNG_SCALE as f32, PNG_SCALE as f32);
        resvg::render(&tree, scale, &mut pixels.as_mut());
        encoded(&pixels).map_err(|e| failed(e.to_string()))
    }
}

/// Pictures have a background: every pixel is opaque, so its colour is what PNG wants.
fn encoded(pixels: &Pixmap) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width(), pixels.height());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(pixels.data())?;
    Ok(bytes)
}
