-- Deploy pyflowguard:report/clean_up to pg
-- Discovery flows whose link points to no master: translated where the link is another key of a master, linked where
-- a rule knows one, else taken into flowguard.quarantine. One statement: it commits batch by batch.

CALL flowguard.repair('discovery_flows', note => 'pyflowguard:report/clean_up');
