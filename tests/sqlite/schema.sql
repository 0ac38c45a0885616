-- Triggers keep the digest, so that the sqlite3 command line keeps it as well as a program does.
BEGIN;
CREATE TABLE front(id INTEGER PRIMARY KEY CHECK (id = 1), n INTEGER NOT NULL);
CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE rows(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, payload TEXT NOT NULL);
CREATE INDEX rows_by_owner ON rows(owner);
CREATE TABLE digest(id INTEGER PRIMARY KEY CHECK (id = 1), rows, bytes, mix);
CREATE TABLE back(id INTEGER PRIMARY KEY CHECK (id = 1), n INTEGER NOT NULL);
CREATE TRIGGER row_comes AFTER INSERT ON rows BEGIN
    UPDATE digest SET rows = rows + 1, bytes = bytes + length(new.payload),
        mix = mix + new.id * 31 + length(new.payload) * 7 + unicode(new.payload)
            + unicode(substr(new.payload, length(new.payload) / 2 + 1, 1)) * 3
            + unicode(substr(new.payload, -1)) * 5;
END;
CREATE TRIGGER row_goes AFTER DELETE ON rows BEGIN
    UPDATE digest SET rows = rows - 1, bytes = bytes - length(old.payload),
        mix = mix - (old.id * 31 + length(old.payload) * 7 + unicode(old.payload)
            + unicode(substr(old.payload, length(old.payload) / 2 + 1, 1)) * 3
            + unicode(substr(old.payload, -1)) * 5);
END;
CREATE TRIGGER row_changes AFTER UPDATE OF payload ON rows BEGIN
    UPDATE digest SET bytes = bytes + length(new.payload) - length(old.payload),
        mix = mix + (length(new.payload) - length(old.payload)) * 7
            + unicode(new.payload) - unicode(old.payload)
            + (unicode(substr(new.payload, length(new.payload) / 2 + 1, 1))
                - unicode(substr(old.payload, length(old.payload) / 2 + 1, 1))) * 3
            + (unicode(substr(new.payload, -1)) - unicode(substr(old.payload, -1))) * 5;
END;
INSERT INTO front VALUES (1, 0);
INSERT INTO back VALUES (1, 0);
INSERT INTO digest VALUES (1, 0, 0, 0);
WITH RECURSIVE each(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM each WHERE id < 100)
    INSERT INTO accounts SELECT id, 1000 FROM each;
COMMIT;
