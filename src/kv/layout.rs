//! Size and addressing of the KV slab.

/// The slab, `[layer][page][K|V][head][position][D]`: one (page, head) is contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// P, positions in a page; a power of two.
    pub page_size: usize,
    pub bytes_per_element: usize,
}

impl KvLayout {
    /// Bytes of K and V that one token takes in all layers:
    /// 2 · layers · kv_heads · head_dim · bytes (day2 §4.2 with batch = seq_len = 1).
    pub fn bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_element
    }

    /// Bytes of one page in all layers.
    pub fn bytes_per_page(&self) -> usize {
        self.bytes_per_token() * self.page_size
    }

    /// Pages that hold `tokens` positions.
    pub fn pages_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_size)
    }

    /// Elements of one page in one layer.
    pub fn page_elements(&self) -> usize {
        2 * self.kv_heads * self.page_size * self.head_dim
    }

    /// Element offset, inside one layer's part of the slab, of position `index % P` of page
    /// `page` for `head`; `value` picks V instead of K. D elements follow.
    pub fn offset(&self, page: u32, value: bool, head: usize, index: usize) -> usize {
        let plane = (page as usize * 2 + usize::from(value)) * self.kv_heads + head;
        (plane * self.page_size + index % self.page_size) * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day2_examples() {
        let distilgpt2 = KvLayout {
            layers: 6,
            kv_heads: 12,
            head_dim: 64,
            page_size: 64,
            bytes_per_element: 4,
        };
        assert_eq!(distilgpt2.bytes_per_token() * 4 * 100, 14_745_600);
        let llama_7b = KvLayout {
            layers: 32,
            kv_heads: 32,
            head_dim: 128,
            page_size: 64,
            bytes_per_element: 2,
        };
        // day2 prints 17.2 GB here: its own formula gives twice that.
        assert_eq!(llama_7b.bytes_per_token() * 32 * 2048, 34_359_738_368);
    }
}
