-- One line: `ok N`, where N counts the transactions, or what does not hold.
SELECT CASE
    WHEN (SELECT count(*) FROM front) <> 1 OR (SELECT count(*) FROM back) <> 1
        THEN 'a counter is missing'
    WHEN (SELECT n FROM front) <> (SELECT n FROM back)
        THEN 'counters differ: ' || (SELECT n FROM front) || ' and ' || (SELECT n FROM back)
    WHEN (SELECT sum(balance) FROM accounts) <> 100000
        THEN 'sum of the accounts: ' || (SELECT sum(balance) FROM accounts)
    WHEN (SELECT count(*) FROM rows) <> (SELECT rows FROM digest)
        THEN 'number of the rows: ' || (SELECT count(*) FROM rows)
    WHEN (SELECT coalesce(sum(length(payload)), 0) FROM rows) <> (SELECT bytes FROM digest)
        THEN 'bytes of the rows'
    WHEN (SELECT coalesce(sum(id * 31 + length(payload) * 7 + unicode(payload)
            + unicode(substr(payload, length(payload) / 2 + 1, 1)) * 3
            + unicode(substr(payload, -1)) * 5), 0) FROM rows) <> (SELECT mix FROM digest)
        THEN 'digest of the rows'
    WHEN (SELECT count(*) FROM rows NOT INDEXED)
            <> (SELECT count(*) FROM rows INDEXED BY rows_by_owner WHERE owner >= '')
        THEN 'the index of the rows'
    ELSE 'ok ' || (SELECT n FROM front)
END;
