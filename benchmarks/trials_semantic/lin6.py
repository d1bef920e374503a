from lin import *
tr=(~META.held).to_numpy(); K=META.kind.to_numpy(); SRC=META.src.to_numpy(); S=slice(0,1120); cl=META.clean.to_numpy(); lf=META.logfr.to_numpy(); fr=META.frrank.to_numpy()
SW=SRC=='wild'
def cridge(m,y,pen,groups):
    X=POOL[m][:,S].astype(np.float64); sd=X.std(0)+1e-6; Z=(X-X.mean(0))/sd; t=y[m].astype(float).copy(); g=groups[m]
    for k in np.unique(g): q=g==k; Z[q]-=Z[q].mean(0); t[q]-=t[q].mean(); 
    c=np.linalg.solve(Z.T@Z+pen*np.eye(1120),Z.T@t); return lambda Q:Q[:,S]/sd@c
def run(tag,m,y,pen,g):
    f=cridge(m,y,pen,g); report(f'{tag} {pen:g} n={m.sum()}',f(DEV),f(SYNF),f(POOL[HELD]),HT); return f
kk=(K=='web').astype(int)
for nm,y in (('cl',cl),('lf',lf),('cl+lf',z(cl)+z(lf)),('cl+fr',z(cl)+z(fr)),):
    for pen in (1e4,3e4): run(f'kind-centred {nm}',tr,y,pen,kk)
nw=tr&~SW; run('kind-centred, no wild cl',nw,cl,2e4,kk); run('kind-centred, no wild cl+lf',nw,z(cl)+z(lf),2e4,kk)
ph=pd.factorize(META.photo)[0]; run('content-centred cl',tr,cl,1e4,ph); run('content-centred cl+lf',tr,z(cl)+z(lf),1e4,ph)
