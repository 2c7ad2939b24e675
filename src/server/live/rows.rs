//! Who is in which row. A request keeps its row until it leaves; the lowest free one is taken first.

use std::collections::HashMap;

use super::snapshot::LiveRequest;
use crate::request::RequestId;

#[derive(Default)]
pub struct Rows {
    rows: Vec<Option<LiveRequest>>,
    row_of: HashMap<RequestId, usize>,
}

impl Rows {
    pub fn join(&mut self, mut request: LiveRequest) {
        let free = self.rows.iter().position(Option::is_none);
        let row = free.unwrap_or_else(|| {
            self.rows.push(None);
            self.rows.len() - 1
        });
        self.row_of.insert(request.id, row);
        request.row = Some(row);
        self.rows[row] = Some(request);
    }

    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut LiveRequest> {
        let row = *self.row_of.get(&id)?;
        self.rows[row].as_mut()
    }

    pub fn contains(&self, id: RequestId) -> bool {
        self.row_of.contains_key(&id)
    }

    pub fn leave(&mut self, id: RequestId) -> Option<LiveRequest> {
        let row = self.row_of.remove(&id)?;
        self.rows[row].take()
    }

    pub fn iter(&self) -> impl Iterator<Item = &LiveRequest> {
        self.rows.iter().flatten()
    }
}
