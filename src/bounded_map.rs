//! A map that strangers can fill, and that stays small all the same.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

/// A map with at most so many entries. When it is full, entries are forgotten: it is for what costs no more than another
/// question, another attempt or another write when it is gone.
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

    /// Sets a value. When there is no room for another key, everything is forgotten first.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.make_room(&key, &[]);
        self.map.insert(key, value)
    }

    /// The value of a key, `default` if it has none; room for it is made as in [`BoundedMap::make_room`].
    pub(crate) fn get_or_insert(&mut self, key: K, default: V, forget: &[&dyn Fn(&V) -> bool]) -> &mut V {
        self.make_room(&key, forget);
        self.map.entry(key).or_insert(default)
    }

    /// Makes room for `key`, if there is none: forgets what the first test says may go, then what the second says, and so
    /// on until there is room; in the end everything.
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

    /// Changes a value that is there.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// Forgets a key.
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
