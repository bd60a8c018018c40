//! A map of limited size, for entries that clients can cause.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

/// A map with a maximum number of entries. When it is full, entries are removed. So use it only for data whose loss
/// costs no more than another lookup, another attempt or another write.
#[derive(Debug)]
pub(crate) struct BoundedMap<K, V> {
    map: HashMap<K, V>,
    most: usize,
}

impl<K: Eq + Hash, V> BoundedMap<K, V> {
    /// Empty, with room for `most` entries.
    pub(crate) fn new(most: usize) -> BoundedMap<K, V> {
        BoundedMap { map: HashMap::new(), most }
    }

    /// Sets a value. If the map is full and the key is new, the map is cleared first.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.make_room(&key, &[]);
        self.map.insert(key, value)
    }

    /// The value of a key; inserts `default` if it has none. Makes room as [`BoundedMap::make_room`] does.
    pub(crate) fn get_or_insert(&mut self, key: K, default: V, forget: &[&dyn Fn(&V) -> bool]) -> &mut V {
        self.make_room(&key, forget);
        self.map.entry(key).or_insert(default)
    }

    /// Makes room if the map is full and `key` is new: removes the values for which the first test returns true, then
    /// those of the second, and so on until there is room. If there is still none, clears the map.
    pub(crate) fn make_room(&mut self, key: &K, forget: &[&dyn Fn(&V) -> bool]) {
        if self.map.contains_key(key) {
            return;
        }
        for may_go in forget {
            if self.map.len() < self.most {
                return;
            }
            self.map.retain(|_, value| !may_go(value));
        }
        if self.map.len() >= self.most {
            self.map.clear();
        }
    }

    /// The value of a key, to be changed in place.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.map.remove(key)
    }
}

impl<K, V> Deref for BoundedMap<K, V> {
    type Target = HashMap<K, V>;

    fn deref(&self) -> &HashMap<K, V> {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_forgets_what_it_may_and_else_everything() {
        let mut map = BoundedMap::new(3);
        for n in 1..=3 {
            map.insert(n, n);
        }
        map.insert(3, 30);
        assert_eq!(map.len(), 3, "a key that is there needs no room");
        *map.get_or_insert(4, 0, &[&|v| *v == 99, &|v| *v == 1]) += 4;
        let mut keys: Vec<_> = map.keys().copied().collect();
        keys.sort();
        assert_eq!((keys, map[&4]), (vec![2, 3, 4], 4));
        map.insert(5, 5);
        assert_eq!(map.len(), 1);
    }
}
